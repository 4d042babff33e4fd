#!/bin/sh
# `takt` as an install puts it beside its interpreter: runs that one on our own code.
#
# A random.py or a folder common/ in the working directory or on PYTHONPATH is the
# user's, and imports would find it before ours and the standard library's. A script in
# Python could not prevent that: it has imported some by its first line. The variables
# are for what starts Python by itself (Ray, torch); our own children get options, see
# common/interpreter.py. File names and output are UTF-8, whatever the locale says, and
# docstrings stay (PYTHONOPTIMIZE=2 drops them): help and tables are made of them. A
# warning of a library is no error (PYTHONWARNINGS), and a verb that ended is over
# (PYTHONINSPECT).
set -u

script=$0
case $script in */*) ;; *) script=./$script ;; esac
while [ -L "$script" ]; do
    link=$(readlink -- "$script")
    case $link in
        /*) script=$link ;;
        *) script=${script%/*}/$link ;;
    esac
done

unset PYTHONPATH PYTHONHOME PYTHONPLATLIBDIR
unset PYTHONOPTIMIZE PYTHONWARNINGS PYTHONDEVMODE PYTHONINSPECT
export PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONUTF8="${PYTHONUTF8-1}"
exec "${script%/*}/python" -m deploy.cli.main "$@"
