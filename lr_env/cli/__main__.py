"""Run the command: `python -m lr_env.cli`."""

from lr_env.cli.main import main

if __name__ == "__main__":
    main()
