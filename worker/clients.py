"""A process has one client for each transport, and another one once its settings are others, as in a notebook."""

from logging import ERROR

from tidemill.models.errors import SettingsError
from tidemill.models.lines import Seldom
from tidemill.models.options import Transport
from tidemill.models.provider import Provider
from tidemill.models.settings import Settings, settings


class Clients:
    """Those that are in use, in one event loop.

    Args:
        connections: calls that can be in flight at once, over each transport.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._made: dict[tuple[Transport, Settings], Provider] = {}
        self._in_use: dict[Transport, tuple[Settings, Provider]] = {}
        self._seldom = Seldom()
        self.trouble: str | None = None
        """Why none can be made at present, in a sentence; None when one can."""

    def usable(self, transport: Transport) -> Provider | None:
        """The client; None where none can be made, for which this machine is to blame and no row."""
        try:
            client = self._client(transport)
        except SettingsError as error:
            self.trouble = str(error)
            self._seldom.note(ERROR, "trouble", str(error), about=str(error))
            return None
        self.trouble = None
        return client

    def _client(self, transport: Transport) -> Provider:
        configured = settings()  # a notebook may have another key since
        made_of, client = self._in_use.get(transport, (None, None))
        if client is None or made_of is not configured:  # settings are looked up by value only when they are others
            client = self._made.get((transport, configured))
            if client is None:
                client = Provider.of(configured, transport, self._connections)
                self._made[transport, configured] = client
            self._in_use[transport] = configured, client
        return client

    @property
    def models_without_flex(self) -> set[str]:
        """Models that the server has refused to run at the flex tier."""
        own = settings()
        known = [client for (_, made_of), client in list(self._made.items()) if made_of.provider == own.provider]
        return set().union(*(client.models_without_flex for client in known))

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._made.values():
            await client.aclose()
