set -euo pipefail
[[ $1 == fast ]] || exit 3
read -r count < "$(dirname "$0")/count.txt"
for ((i = 0; i < count; i++)); do echo "pass $i of $2"; done
python3 -c 'import six; print("six", six.__version__)'
exit 5
