package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/vfio/sim"
)

// completeDevice offers what may follow NAME=. The name is the user's.
func completeDevice(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	name, url, ok := strings.Cut(word, "=")
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, scheme := range schemes {
		if scheme != "sim" || !strings.HasPrefix(url, "sim:") {
			list = append(list, name+"="+scheme+":")
		}
	}
	for _, p := range sim.Profiles() {
		list = append(list, name+"=sim:"+p.Name+"\t"+p.Doc)
	}
	return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeWords offers a fixed list.
func completeWords(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}
