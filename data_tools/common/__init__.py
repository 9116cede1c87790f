"""What every command shares: settings, files that appear whole, provenance, charts and pages."""
