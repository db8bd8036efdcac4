#!/bin/sh
# Make CMYK profiles of nine printing conditions in folder $1, from the characterization data in
# Debian's icc-profiles-free, with colprof of Debian's argyll. Takes some minutes each.
set -eu
data=${DATA:-/usr/share/color/icc}
source=${SOURCE_GAMUT:-/usr/share/color/argyll/ref/sRGB.icm}
mkdir -p "$1"
for file in "$data"/*.ti3; do
  name=$(basename "$file" .ti3)
  [ -f "$1/$name.icc" ] && continue
  cp "$file" "$1/$name.ti3"
  (cd "$1" && "${COLPROF:-colprof}" -qm -bl -S "$source" -cmt -dpp -D "$name" -O "$name.icc" "$name")
done
