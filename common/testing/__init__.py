"""What an application tests itself with: no sockets, no files, no waiting.

``entities``: given events, when a command comes, then events, a reply or a rejection. ``projections``: a handler over given
events, and the tables that it wrote. ``world``: both services in one process under a mock clock. Events, states and
commands pass through their codecs on the way, so what could not be stored fails here and not in the field.
"""

from common.testing.entities import CommandOutcome, given
from common.testing.projections import ProjectionKit, projecting
from common.testing.world import Service, World, open_world, run

__all__ = ["CommandOutcome", "ProjectionKit", "Service", "World", "given", "open_world", "projecting", "run"]
