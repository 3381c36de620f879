"""`python -m auditgap` is the command `auditgap`."""

from auditgap.entrypoints.cli import main

if __name__ == "__main__":
    main()
