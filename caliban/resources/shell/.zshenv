# What zsh reads first in `caliban shell`: your own ~/.zshenv.

_caliban_folder=$ZDOTDIR
_caliban_path=$PATH
_caliban_names=(GOOGLE_APPLICATION_CREDENTIALS LD_LIBRARY_PATH LD_PRELOAD PYTHONHOME
  PYTHONNOUSERSITE PYTHONPATH VIRTUAL_ENV)
typeset -A _caliban_old
for _caliban_name in $_caliban_names; do
  _caliban_old[$_caliban_name]=${(P)_caliban_name-}
done

ZDOTDIR=$HOME
if [[ -f ~/.zshenv ]]; then
  source ~/.zshenv
fi
# It may have named another folder for the rest. Ours is read first.
_caliban_dotfiles=$ZDOTDIR
ZDOTDIR=$_caliban_folder
