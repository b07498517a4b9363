"""`python -m llamune`, which is also how torchrun starts several of it."""

from llamune.cli import main

if __name__ == "__main__":
    main()
