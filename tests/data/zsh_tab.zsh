# zsh -f zsh_tab.zsh FOLDER LINE: what TAB offers behind LINE, by the completions in FOLDER. A zsh
# with a terminal of its own types the line; its `compadd` notes what it is told to offer.
zmodload zsh/zpty zsh/zselect
folder=$1 line=$2
offered=$folder/offered
: >$offered
zpty tab zsh -f -i
zpty -w tab "folder=$folder; source $folder/zshrc"
until_noted() {
    while ! grep -qx $1 $offered; do
        zpty -r -t tab >/dev/null 2>&1
        zselect -t 2
    done
}
until_noted READY
zpty -w -n tab "$line"$'\t\x18'
until_noted DONE
zpty -d tab
grep -vxE 'READY|DONE' $offered
exit 0
