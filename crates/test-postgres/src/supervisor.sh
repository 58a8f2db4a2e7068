# Holds one throwaway server for a test process and removes it when that process has ended.
#
# Arguments: the directory to create, shell text that fills it, shell text that `exec`s the server on `$port`,
# the signal that ends it with the process, then arguments that both find in `$@`.
# Orders come on stdin, one a line: `start PORT`, or the name of a signal to end the server with.
# Answers go to stdout: `initialised` or `failed`, `started PID`, and `gone` when the last process of a
# server has ended. The end of stdin removes all; it comes by itself however the test process ended.

trap '' HUP INT TERM PIPE # only the end of stdin ends this script

directory=$1 prepare=$2 serve=$3 end=$4
shift 4
server=

mkdir -m 700 "$directory" && cd "$directory" || exit
exec 2>>log
mkfifo output

if (eval "$prepare") </dev/null >>log; then
    echo initialised
else
    echo failed
fi

while read -r order port; do
    case $order in
    start)
        # Opening `output` waits for its reader, so `started` always comes before `gone`. The server and
        # all its children hold `output` open: it ends with the last of them.
        { eval "$serve"; } </dev/null >output 2>&1 &
        server=$!
        echo "started $server"
        { cat output >>log; echo gone; } </dev/null &
        ;;
    *)
        kill -s "$order" "$server"
        wait
        server=
        ;;
    esac
done

[ -z "$server" ] || kill -s "$end" "$server"
wait
cd / && rm -rf "$directory"
