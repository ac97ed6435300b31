# What zsh reads in `caliban shell`: your own ~/.zshrc, and then what must hold in the container.

# Functions are read before your settings are, whose aliases then don't change them.
_caliban_settle() {
  emulate -L zsh
  local name
  # Programs of the image come before those of the home directory.
  [[ $PATH == "$_caliban_path" ]] || PATH=$_caliban_path:$PATH
  unalias python python3 pip pip3 2>/dev/null || :
  unset -f python python3 pip pip3 2>/dev/null || :
  for name in $_caliban_names; do
    # Where the image's packages and your credentials are. Other values lead to what was made for
    # another system, or mean nothing here.
    if [[ -n $_caliban_old[$name] ]]; then
      export "$name=$_caliban_old[$name]"
    elif [[ $name != GOOGLE_APPLICATION_CREDENTIALS ]]; then
      unset $name
    fi
  done
  unset _caliban_name _caliban_names _caliban_old _caliban_path _caliban_folder _caliban_dotfiles
  _caliban_prompt
  # Some settings make a new prompt before each command.
  precmd_functions+=(_caliban_prompt)
}

_caliban_prompt() {
  PROMPT='%F{cyan}[%n@%m %~]%#%f '
}

ZDOTDIR=$_caliban_dotfiles
if [[ -f $ZDOTDIR/.zshrc ]]; then
  source $ZDOTDIR/.zshrc
fi
_caliban_settle
unfunction _caliban_settle
