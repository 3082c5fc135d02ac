package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// runHeading begins the section of a page that holds a run.
const runHeading = "## A run"

// WritePage writes the report to a file in Markdown: it replaces the section of the last run, and leaves what stands before it, such as
// how to read it.
func (r *Report) WritePage(file string, at time.Time) error {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, []byte(r.page(string(text), at)), 0o644)
}

// page is a page with its run replaced by this one.
func (r *Report) page(before string, at time.Time) string {
	var b strings.Builder
	if at := strings.Index("\n"+before, "\n"+runHeading+"\n"); at >= 0 {
		before = before[:at]
	}
	if before = strings.TrimRight(before, "\n"); before != "" {
		b.WriteString(before + "\n\n")
	}
	fmt.Fprintf(&b, "%s\n\n%s. %s.\n", runHeading, at.Format("2 January 2006"), r.heading())
	part := ""
	for _, f := range r.Figures {
		if f.Part != part {
			part = f.Part
			fmt.Fprintf(&b, "\n**%s**\n\n| | value | bare client | ratio | goal |\n|---|---:|---:|---:|---|\n", part)
		}
		bare, ratio := f.beside()
		name := f.Name
		if f.Note != "" {
			name += " (" + f.Note + ")"
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s | %s |\n", name, number(f.Value), f.Unit, bare, ratio, f.Goal)
	}
	fmt.Fprintf(&b, "\n%s\n", strings.ReplaceAll(r.account(), "\n", "\n\n"))
	return b.String()
}
