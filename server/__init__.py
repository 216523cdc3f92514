"""The names that OpenEnv and the documented commands use; everything behind them is in the packages."""
