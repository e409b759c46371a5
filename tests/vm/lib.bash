# For the tests in this directory, which run as root in the VM of hack/vm:
# TAP, bundles of busybox, and a few questions about cgroups.
#
# A test is a function; `t DESCRIPTION FUNCTION` runs it with `set -e`, in a
# subshell, and prints what it did if it failed. $RUNZ is the binary under test.

set -uo pipefail
: "${RUNZ:?the path of the runz binary}"
RUNZ=$(realpath "$RUNZ")
tmp=$(mktemp -d /var/tmp/runz-test.XXXXXX)
chmod 711 "$tmp"; cd "$tmp" || exit 1
# State of our own: what the engines' tests find in /run/runz is not ours.
root=/run/runz-test
count=0 failed=0
id=""
# What is typed at the terminals that `script` makes: nothing, but never an end either.
mkfifo "$tmp/keyboard"
exec 3<>"$tmp/keyboard"

runz() { "$RUNZ" --root "$root" "$@"; }

finish() {
  local left
  for left in "$root"/*; do
    [[ ! -d $left ]] || runz delete --force "${left##*/}" 2>/dev/null
  done
  type -t cleanup >/dev/null && cleanup
  rm -rf "$tmp"
}
trap finish EXIT

t() { # DESCRIPTION FUNCTION
  local log=$tmp/log.$count rc
  count=$((count + 1))
  # A process group of its own, so that all of one that hangs can be ended.
  set -m
  (set +m -e; exec </dev/null; BASH_XTRACEFD=2; set -x; "$2") >"$log" 2>&1 &
  local pid=$!
  (sleep 200; echo "hangs" >>"$log"; kill -KILL -- -$pid) >/dev/null 2>&1 &
  local watch=$!
  set +m
  wait "$pid" 2>/dev/null
  rc=$?
  kill -- -$watch 2>/dev/null
  wait "$watch" 2>/dev/null
  if ((rc == 0)); then
    echo "ok $count $1"
  else
    failed=$((failed + 1))
    echo "not ok $count $1"
    tail -n 40 "$log" | sed "s/^/# /"
  fi
}

end() { # the plan, and the exit status
  echo "1..$count"
  exit $((failed > 0))
}

# A root filesystem with busybox and its links, made once.
rootfs() {
  [[ -d $tmp/rootfs ]] || {
    mkdir -p "$tmp"/rootfs/{bin,dev,etc,proc,sys,tmp,root,mnt}
    cp "$(command -v busybox)" "$tmp/rootfs/bin/busybox"
    chroot "$tmp/rootfs" /bin/busybox --install -s /bin
    echo root:x:0:0:root:/root:/bin/sh >"$tmp/rootfs/etc/passwd"
    echo root:x:0: >"$tmp/rootfs/etc/group"
  }
}

# bundle ID [JQ-FILTER...]: sets $id, and makes its bundle $tmp/ID of what
# `runz spec` gives, without a terminal, changed by the filters.
bundle() {
  local filter='.process.terminal = false | .root.path = $rootfs | .process.args = ["sleep", "1000"]'
  id=$1; shift
  local f; for f in "$@"; do filter+=" | $f"; done
  rm -rf "${tmp:?}/$id"; mkdir "$tmp/$id"
  "$RUNZ" spec -b "$tmp/$id"
  jq --arg rootfs "$tmp/rootfs" "$filter" "$tmp/$id/config.json" >"$tmp/$id/new"
  mv "$tmp/$id/new" "$tmp/$id/config.json"
}

sh_c() { jq -n --arg script "$1" '["sh", "-c", $script]'; } # as process.args

# The directory of a container's cgroup.
cg() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(runz state "$1" | jq .pid)/cgroup")"; }

# up ID [JQ-FILTER...]: a running container, detached, with its cgroup in $cg.
up() {
  bundle "$@"
  runz run -d -b "$tmp/$id" "$id" </dev/null >"$tmp/$id/out" 2>&1 || { cat "$tmp/$id/out"; return 1; }
  cg=$(cg "$id")
}

down() { runz delete --force "$id" && [[ ! -e $root/$id && ! -e ${cg:-/nowhere} ]]; }

fails() { # STATUS COMMAND...: with exactly that status
  local want=$1 rc=0; shift
  "$@" || rc=$?
  [[ $rc == "$want" ]] || { echo "exit status $rc, not $want: $*"; return 1; }
}

# soon COMMAND...: until it's true, for what another process does when it likes.
soon() {
  local i
  for ((i = 0; i < 300; i++)); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep .1
  done
  echo "never true: $*"; return 1
}

field() { awk -v k="$2" '$1 == k { print $2 }' "$1"; } # FILE KEY: of a flat keyed file
