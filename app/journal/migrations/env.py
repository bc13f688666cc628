"""What Alembic runs for an upgrade. The connection is ours, and so is its transaction: all steps, or none."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
