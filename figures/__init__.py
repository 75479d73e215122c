"""One short script per published figure or table: results under figures/data in, PDF and PNG out."""
