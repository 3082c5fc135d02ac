package main

import (
	"fmt"
	"io"
)

// progressLine is a line that is written over and over, where somebody is looking; elsewhere nothing is written.
type progressLine struct {
	w      io.Writer
	seen   bool
	before string
}

func newProgressLine(w io.Writer) *progressLine { return &progressLine{w: w, seen: terminal(w)} }

func (p *progressLine) say(text string) {
	if p.seen && text != p.before {
		fmt.Fprint(p.w, "\r\x1b[K", text)
		p.before = text
	}
}

// end takes the line away.
func (p *progressLine) end() {
	if p.before != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.before = ""
	}
}
