"""`python -m govern` is the `govern` command."""

from govern.cli import main

if __name__ == "__main__":
    main()
