"""The papers' figures and tables: their data (manifest, run), their drawings, and verdicts on the claims."""
