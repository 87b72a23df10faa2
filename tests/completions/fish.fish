# fish.fish LINE: what fish(1) offers for the line.
source "$PACKAGING/scnpm.fish"
for offer in (complete -C "$argv[1]")
    string replace -r '\t.*' '' -- $offer
end
