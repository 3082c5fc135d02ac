package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPage(t *testing.T) {
	t.Parallel()
	r := &Report{
		Scale: 1, Machine: Machine{Cores: 2},
		Figures: []Figure{
			{Part: "one", Name: "speed", Value: 50, Unit: "/s", Bare: 100, Ratio: 0.5, Goal: &Goal{AtLeast: 0.5, OfBare: true, Met: true}},
			{Part: "two", Name: "time", Value: 7, Unit: "s", Goal: &Goal{AtMost: 5}, Note: "for once"},
		},
		Failures: []Failure{{"three", "it broke"}},
	}
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte("# How to read\n\nText.\n\n## A run\n\nold\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // written again, nothing is doubled
		if err := r.WritePage(file, time.Unix(0, 0).UTC()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# How to read\n\nText.\n\n## A run\n\n1 January 1970.", "\n**one**\n", "| speed | 50 /s | 100 | 0.5 | >= 0.5 of bare: met |",
		"| time (for once) | 7 s |  |  | <= 5: NOT MET |", "1 of 2 goals are met.", "NOT MEASURED to the end: three: it broke",
	} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("%q is not once in\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "old") {
		t.Error("the last run is still there")
	}
}

func TestGoal(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		goal         *Goal
		value, ratio float64
		met          bool
	}{
		{atLeast(2), 2, 0, true},
		{atLeast(2), 1.9, 3, false},
		{atMost(2), 2, 0, true},
		{atMost(2), 2.1, 1, false},
		{atLeastBare(0.5), 0.4, 0.5, true},
		{atLeastBare(0.5), 5, 0.4, false},
		{atMostBare(3), 9, 3, true},
		{atMostBare(3), 1, 3.1, false},
	} {
		one.goal.hold(&Figure{Value: one.value, Ratio: one.ratio})
		if one.goal.Met != one.met {
			t.Errorf("%+v of %v, %v", one.goal, one.value, one.ratio)
		}
	}
}
