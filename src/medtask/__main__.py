"""`python -m medtask`: the same command line where the script is not on the path."""

from medtask.cli.main import main

if __name__ == "__main__":
    main()
