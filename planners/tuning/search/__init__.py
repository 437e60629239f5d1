"""Search of schedules and rates with Optuna, whose trials are runs in the record store."""
