"""What a run leaves to read: report.json, report.html, and a model card."""
