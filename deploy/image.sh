#!/bin/sh
# Makes one layer of the container image, in a directory of its own: deploy/image.sh base|packages|syncer DIRECTORY
#
#   DIRECTORY/base      Python and the libraries that it needs, from the Debian packages of this machine's release: no shell, no package manager
#   DIRECTORY/packages  the dependencies, as uv.lock has them
#   DIRECTORY/syncer    the syncer
#
# Later layers want the earlier ones there. The Dockerfile runs it, and so does e2e/lab/syncer_image.py where there is no Docker; it needs
# apt-get, dpkg-deb, uv and a Python, but no root. The same packages make the same bytes: every time is SOURCE_DATE_EPOCH or 1970.
set -eu
umask 022

PYTHON=3.11
DEBIAN=bookworm
PACKAGES="base-files ca-certificates gcc-12-base libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 liblzma5 libpython$PYTHON-minimal
  libpython$PYTHON-stdlib libssl3 libstdc++6 libuuid1 python$PYTHON-minimal zlib1g"

fail() {
  echo "deploy/image.sh: $*" >&2
  exit 2
}

# Download PACKAGES and unpack them into $layer; of each there is the record in var/lib/dpkg/status.d that scanners look for.
base() {
  grep -q "^VERSION_CODENAME=$DEBIAN\$" /etc/os-release || fail "wants Debian $DEBIAN, whose packages it takes; docker build works anywhere"
  mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/sources" "$work/debs" "$layer/var/lib/dpkg/status.d"
  for source in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    if [ -e "$source" ]; then cp "$source" "$work/sources/"; fi
  done
  set -- -qq -o "Dir::State=$work/state" -o Dir::State::status=/dev/null -o "Dir::Cache=$work/cache" -o Dir::Etc::SourceList=/dev/null \
    -o "Dir::Etc::SourceParts=$work/sources" -o APT::Sandbox::User=root -o Acquire::Languages=none
  apt-get "$@" -o APT::Update::Error-Mode=any update
  # shellcheck disable=SC2086  # a list of words
  (cd "$work/debs" && apt-get "$@" download $PACKAGES)
  for deb in "$work/debs"/*.deb; do
    dpkg-deb -x "$deb" "$layer"
    dpkg-deb -f "$deb" >"$layer/var/lib/dpkg/status.d/$(dpkg-deb -f "$deb" Package)"
  done

  # What the packages' scripts would do.
  cat "$layer"/usr/share/ca-certificates/mozilla/*.crt >"$layer/etc/ssl/certs/ca-certificates.crt"
  mkdir -p "$layer/usr/lib/ssl"
  ln -s /etc/ssl/certs "$layer/usr/lib/ssl/certs"
  ln -s /etc/ssl/certs/ca-certificates.crt "$layer/usr/lib/ssl/cert.pem"
  ln -s "python$PYTHON" "$layer/usr/bin/python3"
  echo 'hosts: files dns' >"$layer/etc/nsswitch.conf"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$layer/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$layer/etc/group"

  # What nobody needs here: documentation but for licences, scripts that want a shell, character sets that Python does not use, modules
  # whose libraries are left out, and test support.
  find "$layer/usr/share/doc" ! -type d ! -name copyright ! -type l -delete
  find "$layer/usr/share/doc" -xtype l -delete
  find "$layer/usr/share/doc" -type d -empty -delete
  (
    cd "$layer"
    rm -r usr/sbin usr/share/man usr/share/lintian usr/share/base-files usr/share/ca-certificates usr/share/gdb etc/ca-certificates \
      etc/profile.d etc/update-motd.d etc/skel usr/lib/*-linux-gnu*/gconv
    cd "usr/lib/python$PYTHON"
    rm -r curses dbm sqlite3 test pydoc_data turtle.py
    for module in _crypt _curses _curses_panel _dbm _sqlite3 nis readline; do rm lib-dynload/"$module".*.so; done
  )
  find "$layer" -type d -empty -delete
  for directory in dev proc root run sys tmp var; do mkdir -p "$layer/$directory"; done
  ln -s /run "$layer/var/run"
  compile "/usr/lib/python$PYTHON"
}

packages() {
  uv export --quiet --frozen --no-dev --no-emit-project --no-header --output-file "$work/requirements.txt"
  uv pip install --quiet --target "$layer$site" --python-version "$PYTHON" --python-platform "$(uname -m)-manylinux_2_36" --only-binary :all: \
    --require-hashes --no-deps --link-mode copy --requirement "$work/requirements.txt"
  rm -r "$layer$site/bin"  # commands of theirs; they name the Python of this machine
  sed -i '/^bin\//d' "$layer$site"/*.dist-info/RECORD
  compile "$site"
}

syncer() {
  uv build --quiet --wheel --build-constraints deploy/build-requirements.txt --require-hashes --out-dir "$work/dist"
  mkdir -p "$layer$site" "$layer/usr/local/bin"
  python3 -m zipfile -e "$work"/dist/syncer-*.whl "$layer$site"
  printf '#!/usr/bin/python%s\nfrom syncer.cli import main\n\nmain()\n' "$PYTHON" >"$layer/usr/local/bin/syncer"
  chmod 755 "$layer/usr/local/bin/syncer"
  compile "$site"
}

# Compile what is in a directory of $layer, by the image's own Python. Sources are never looked at again, so their times do not matter.
compile() {
  root="$image/base"
  libraries=$(echo "$root"/lib/*-linux-gnu*)
  env -i PYTHONHOME="$root/usr" PYTHONDONTWRITEBYTECODE=1 \
    "$libraries"/ld-linux-*.so.* --library-path "$libraries:$root/usr${libraries#"$root"}" \
    "$root/usr/bin/python$PYTHON" -m compileall -q -f --invalidation-mode unchecked-hash -s "$layer" -p / "$layer$1"
}

[ $# -eq 2 ] || fail "wants base, packages or syncer, and a directory"
case $1 in
  base | packages | syncer) ;;
  *) fail "there is no layer $1" ;;
esac
image=$2
layer=$image/$1
site=/usr/local/lib/python$PYTHON/dist-packages
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$layer"
"$1"
chmod -R u+w,go-w,a+rX,ug-s "$layer"
if [ -d "$layer/tmp" ]; then chmod 1777 "$layer/tmp"; fi
find "$layer" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
