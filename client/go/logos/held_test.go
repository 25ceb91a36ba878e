package logos

import (
	"slices"
	"testing"
)

func held(maxBytes int, seqs ...uint64) *heldEvents {
	h := &heldEvents{maxBytes: maxBytes}
	for _, seq := range seqs {
		h.add(StreamPlace{Seq: seq}, &KernelMessage{})
	}
	return h
}

func taken(h *heldEvents, last uint64) (seqs []uint64) {
	for _, one := range h.take(ID{}, Epoch{}, last) {
		seqs = append(seqs, one.place.Seq)
	}
	return seqs
}

func TestAReplayThatReachesTheHeldEventsGivesWayToThem(t *testing.T) {
	h := held(1<<20, 5, 6, 7)
	for _, step := range []struct {
		last  uint64
		wants []uint64
	}{{3, nil}, {4, []uint64{5, 6, 7}}, {4, nil}} {
		if seqs := taken(h, step.last); !slices.Equal(seqs, step.wants) {
			t.Errorf("after %d: %v, not %v", step.last, seqs, step.wants)
		}
	}
	if seqs := taken(held(1<<20, 5, 6, 7), 6); !slices.Equal(seqs, []uint64{7}) {
		t.Errorf("the replay went on into them: %v", seqs)
	}
	if seqs := taken(held(1<<20, 5, 6, 7), 9); seqs != nil {
		t.Errorf("the replay went past them: %v", seqs)
	}
}

func TestAGapBeginsANewRunOfHeldEvents(t *testing.T) {
	h := held(1<<20, 5, 6)
	if dropped := h.add(StreamPlace{Seq: 8}, nil); dropped != 2 {
		t.Errorf("%d are dropped", dropped)
	}
	if seqs := taken(h, 4); seqs != nil {
		t.Errorf("%v", seqs)
	}
	if seqs := taken(h, 7); !slices.Equal(seqs, []uint64{8}) {
		t.Errorf("%v", seqs)
	}
}

func TestHeldEventsAreBoundedAndOfOneEpoch(t *testing.T) {
	h := held(10 * eventOverhead)
	for seq := range uint64(100) {
		h.add(StreamPlace{Seq: seq + 1}, &KernelMessage{})
		if h.bytes > 11*eventOverhead {
			t.Fatalf("%d bytes are held", h.bytes)
		}
	}
	if events := held(1<<20, 5).take(ID{}, Epoch{1}, 4); events != nil {
		t.Errorf("of another epoch: %v", events)
	}
}
