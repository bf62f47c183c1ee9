"""Written definitions that between them use every device of libvirt's domain format."""

from pathlib import Path

# the text of each by its name; not every libvirt takes each of them
DEFINITIONS = {path.stem: path.read_text("utf-8") for path in Path(__file__).with_name("definitions").glob("*.xml")}
