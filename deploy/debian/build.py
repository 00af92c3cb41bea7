"""Build event-relay_VERSION_ARCH.deb: the relay's wheel and its locked dependencies, for each supported Python.

    python deploy/debian/build.py --arch amd64 --wheel dist/event_relay-0.1.0-py3-none-any.whl --to dist

docs/decisions/0019-debian-package.md describes the layout. The same input makes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
"""Names of the architectures in wheels."""
COMPILED = {"armhf": {"msgspec"}}
"""Dependencies without a wheel, by architecture. deploy/debian/compile-armhf compiles them."""
LEFT_OUT = (".c", ".h", ".pxd", ".pyi", ".pyx")
"""Files of wheels that only a compiler or a type checker reads."""
LIBRARY = Path("usr/lib/event-relay")
INSTALLED = {
    "config.example.toml": "etc/event-relay/config.toml",
    "deploy/debian/package.conf": "usr/lib/systemd/system/event-relay.service.d/package.conf",
    "deploy/debian/event-relay.sysusers": "usr/lib/sysusers.d/event-relay.conf",
    "deploy/grafana/fleet.json": "usr/share/doc/event-relay/fleet.json",
    "deploy/grafana/relay.json": "usr/share/doc/event-relay/relay.json",
    "deploy/prometheus/alerts.yml": "usr/share/doc/event-relay/alerts.yml",
    "deploy/prometheus/fleet.yml": "usr/share/doc/event-relay/fleet.yml",
    "docs/run/operations.md": "usr/share/doc/event-relay/operations.md",
    "LICENSE": "usr/share/doc/event-relay/copyright",
}
PROGRAMS = {
    "deploy/debian/event-relay": "usr/bin/event-relay",
    "deploy/debian/rtupdate": "usr/share/python3/runtime.d/event-relay.rtupdate",
}
SCRIPTS = ("postinst", "prerm", "postrm")


def locked(arch: str) -> str:
    """Return the lock without the dependencies that a marker excludes, or that have no wheel, on this architecture."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    excluded = f'platform_machine != "{MACHINES[arch]}"'
    return "\n".join(b for b in blocks if excluded not in b and b.split("==")[0] not in COMPILED.get(arch, ()))


def download(arch: str, python: str, to: Path) -> None:
    """Download the wheels of the locked dependencies for one Python. Raises CalledProcessError if one is missing."""
    lock = to / "lock"
    to.mkdir(parents=True)
    lock.write_text(locked(arch))
    platforms = [
        f"--platform={libc}_{MACHINES[arch]}" for libc in ("manylinux2014", "manylinux_2_28", "manylinux_2_31")
    ]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    kind = [f"--python-version={python}", "--only-binary=:all:", "--require-hashes", "--dest", str(to), "-r", str(lock)]
    subprocess.run([*pip, *platforms, *kind], check=True)


def unpack(wheel: Path, library: Path) -> None:
    """Add the files of a wheel. Raises ValueError if another wheel has the same file with other content.

    The compiled modules of several versions of Python have different names, all other files are the same.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = library / name
            if name.endswith(("/", "/RECORD", "/WHEEL", *LEFT_OUT)):
                continue
            content = archive.read(name)
            if path.exists() and path.read_bytes() != content:
                raise ValueError(f"{wheel.name}: {name} differs from that of another wheel")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def install_files(root: Path) -> None:
    """Copy units, configuration and documentation."""
    found = [path.name for path in (ROOT / "deploy/systemd").iterdir() if path.suffix in (".service", ".socket")]
    units = {f"deploy/systemd/{name}": f"usr/lib/systemd/system/{name}" for name in found}
    for source, target in (INSTALLED | PROGRAMS | units).items():
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, root / target)
        (root / target).chmod(0o755 if source in PROGRAMS else 0o644)
    (root / "usr/bin/relay").symlink_to("event-relay")


def describe(root: Path, arch: str, version: str) -> None:
    """Write the control files."""
    control = root / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    newest = f"3.{int(PYTHONS[-1].split('.')[1]) + 1}"
    values = {
        "VERSION": version,
        "ARCH": arch,
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
        "PYTHON": f"python3 (>= {PYTHONS[0]}), python3 (<< {newest})",
    }
    text = (HERE / "control").read_text()
    (control / "control").write_text(re.sub(r"@(\w+)@", lambda match: values[match[1]], text))
    (control / "conffiles").write_text("/etc/event-relay/config.toml\n")
    sums = [f"{hashlib.md5(p.read_bytes(), usedforsecurity=False).hexdigest()}  {p.relative_to(root)}\n" for p in files]
    (control / "md5sums").write_text("".join(sums))
    for script in SCRIPTS:
        shutil.copyfile(HERE / script, control / script)
        (control / script).chmod(0o755)


def pack(root: Path, arch: str, version: str, to: Path) -> Path:
    """Add the remaining files to `root`, and write the package."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    install_files(root)
    describe(root, arch, version)
    package = to / f"event-relay_{version}_{arch}.deb"
    to.mkdir(parents=True, exist_ok=True)
    for path in (root, *root.rglob("*")):
        os.utime(path, (int(epoch), int(epoch)), follow_symlinks=False)
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(package)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"SOURCE_DATE_EPOCH": epoch})
    return package


def build(arch: str, wheel: Path, compiled: Path | None, to: Path) -> Path:
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "root")
        library = root / LIBRARY
        library.mkdir(parents=True)
        for python in PYTHONS:
            download(arch, python, Path(directory, python))
        wheels = [
            wheel,
            *Path(directory).glob("3.*/*.whl"),
            *(compiled.glob("*.whl") if compiled and arch in COMPILED else ()),
        ]
        found = {(each.name.split("-")[0], each.name.split("-")[2]) for each in wheels}
        for name in COMPILED.get(arch, ()):
            if missing := {f"cp{each.replace('.', '')}" for each in PYTHONS} - {tag for n, tag in found if n == name}:
                raise ValueError(
                    f"no wheel of {name} for {', '.join(sorted(missing))}: run deploy/debian/compile-{arch}"
                )
        for each in sorted(wheels):
            unpack(each, library)
        return pack(root, arch, wheel.name.split("-")[1], to)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--arch", choices=MACHINES, required=True)
    parser.add_argument("--wheel", type=Path, required=True, help="wheel of the relay")
    parser.add_argument("--compiled", type=Path, help="directory with wheels that deploy/debian/compile-armhf made")
    parser.add_argument("--to", type=Path, required=True, help="directory of the package")
    given = parser.parse_args()
    try:
        sys.stdout.write(f"{build(given.arch, given.wheel, given.compiled, given.to)}\n")
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
