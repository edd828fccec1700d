"""The web UI. Its pages do no work: what they call is here, in plain functions, and in the workflow."""
