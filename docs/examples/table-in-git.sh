#!/bin/sh
# A table kept in git, as the steps of a pipeline. MANTRID_URL and MANTRID_TOKEN say which daemon.
#
#   table-in-git.sh check FILE     for every commit: needs no daemon
#   table-in-git.sh propose FILE   for a proposal: prints what would change
#   table-in-git.sh load FILE      for the main branch: loads the file if that changes anything
set -eu

difference() {
    # 0 no difference, 1 a difference, anything else an error
    status=0
    mantrid-client diff "$1" || status=$?
    if [ "$status" -gt 1 ]; then
        exit "$status"
    fi
}

case $1 in
check)
    mantrid-client check "$2"
    ;;
propose)
    mantrid-client check "$2" > /dev/null
    difference "$2"
    if [ "$status" -eq 0 ]; then
        echo 'Nothing would change.'
    fi
    ;;
load)
    tag=$(mktemp)
    trap 'rm -f "$tag"' EXIT
    mantrid-client dump --etag "$tag" > /dev/null
    difference "$2"
    if [ "$status" -eq 1 ]; then
        # Only the table that was compared is replaced: a change in between is looked at first.
        mantrid-client load --if-match "$(cat "$tag")" "$2"
    fi
    ;;
*)
    echo "usage: $0 check|propose|load FILE" >&2
    exit 2
    ;;
esac
