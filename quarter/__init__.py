"""The queue of training runs for a quarter of an hour on a borrowed GPU."""
