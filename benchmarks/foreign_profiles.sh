#!/bin/sh
# Make CMYK profiles of seven printing conditions in folder $1, from the characterization data in
# Debian's icc-profiles-free, with colprof of Debian's argyll. Takes half a minute each.
set -eu
data=${DATA:-/usr/share/color/icc}
source=${SOURCE_GAMUT:-/usr/share/color/argyll/ref/sRGB.icm}
mkdir -p "$1"
for name in FOGRA28L FOGRA29L FOGRA30L FOGRA39L TR003 TR005 TR006; do
  file=$data/$name.ti3
  [ -f "$1/$name.icc" ] && continue
  cp "$file" "$1/$name.ti3"
  (cd "$1" && "${COLPROF:-colprof}" -qm -bl -S "$source" -cmt -dpp -D "$name" -O "$name.icc" "$name")
done
