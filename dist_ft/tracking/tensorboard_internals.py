"""Private attributes of tensorboardX (2.6), each with the reason why it is used."""

from __future__ import annotations

import errno

from tensorboardX import SummaryWriter


def check_worker(writer: SummaryWriter) -> None:
    """Raises OSError if the thread that writes the event file has died, as it does on a full disk.

    tensorboardX does not notice: it queues events for ever, and the process then hangs at exit
    because nothing empties the queue.
    """
    events = writer.file_writer.event_writer
    if not events._worker.is_alive():
        events._event_queue.cancel_join_thread()
        raise OSError(errno.ENOSPC, "TensorBoard's event file cannot be written, see above")
