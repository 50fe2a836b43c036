"""The settings of the app: `settings` and `limits` declare each once, with its documentation.

A host project writes ``REALTIME_<NAME>`` in its Django settings. Rings 0 and 1 never see this
package; they take the few numbers that they need. `declared` has the means to declare a setting,
`rules` the validation that goes beyond numeric bounds, `improper` the exception.
"""

from __future__ import annotations

from realtime.conf.improper import ImproperSetting
from realtime.conf.settings import (
    DECLARED,
    PREFIX,
    Settings,
    check_setting,
    setting_names,
)

__all__ = ["DECLARED", "PREFIX", "ImproperSetting", "Settings", "check_setting", "setting_names"]
