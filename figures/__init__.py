"""The papers' figures and tables: their data (manifest, run), their drawings, and what they say of the claims."""
