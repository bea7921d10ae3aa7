"""Proposing plans on predictions alone; nothing here runs any."""
