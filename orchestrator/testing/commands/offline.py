"""sacct and sacctmgr without a controller: they talk to the database, which is a file."""

import os
import pwd
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.testing.commands import sacct, sacctmgr
from orchestrator.testing.commands.base import Call, Failed
from orchestrator.testing.faults import Faults
from orchestrator.testing.folder import Folder
from orchestrator.testing.ledger import read_rows
from orchestrator.testing.state import Who


def answer_offline(folder: str, request: Mapping[str, Any]) -> tuple[str, str, int]:
    """Output, error output, exit status."""
    place = Folder(Path(folder))
    cluster = place.read_cluster()
    down = Faults.load(place.faults).database_down
    who = Who(pwd.getpwuid(os.getuid()).pw_name, os.getuid(), str(os.getgid()), os.getgid())
    call = Call(request["command"], request["argv"], request["environment"], request["cwd"], who, int(time.time()))
    try:
        if call.command == "sacctmgr":
            answer = sacctmgr.run(call, cluster, down=down)
        else:
            answer = sacct.run(call, cluster, read_rows(place.ledger, time.time()), down=down)
    except Failed as failed:
        answer = failed.answer
    return answer.out, answer.err, answer.rc
