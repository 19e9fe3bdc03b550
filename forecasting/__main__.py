"""``python -m forecasting``: the command line."""

from forecasting.cli.main import main

if __name__ == "__main__":  # a spawned worker imports this module again and must not start a second command line
    main()
