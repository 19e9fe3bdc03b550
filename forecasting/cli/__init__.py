"""The command line: thin commands over ``forecasting.pipeline`` and the read side of the store."""
