package store

import "hash/maphash"

// sketch answers, in fixed memory, whether a delivery may have entries in the state indexes. A delivery that was
// delivered at its first attempt never had any: then nothing has to be read before its record is written. It errs
// only towards "may": each id adds to two small counters, and one that was ever full stays so.
type sketch struct {
	seed   maphash.Seed
	counts []uint8
	blind  bool // too many to count at start: it says "may" to everything
}

const (
	sketchSize  = 1 << 22 // counters, of a byte each
	sketchLimit = 2 << 20 // entries that are counted at start; beyond, the sketch would say "may" to most anyhow
)

func newSketch() *sketch {
	return &sketch{seed: maphash.MakeSeed(), counts: make([]uint8, sketchSize)}
}

func (s *sketch) slots(id string) (*uint8, *uint8) {
	h := maphash.String(s.seed, id)
	return &s.counts[h%sketchSize], &s.counts[(h>>32)%sketchSize]
}

func (s *sketch) may(id string) bool {
	if s.blind {
		return true
	}
	a, b := s.slots(id)
	return *a > 0 && *b > 0
}

func (s *sketch) add(id string) {
	a, b := s.slots(id)
	for _, n := range [...]*uint8{a, b} {
		if *n < 255 {
			*n++
		}
	}
}

// remove takes back one add of the same id.
func (s *sketch) remove(id string) {
	a, b := s.slots(id)
	for _, n := range [...]*uint8{a, b} {
		if *n > 0 && *n < 255 {
			*n--
		}
	}
}
