package logos

import "testing"

func at(epoch byte, seq uint64) StreamPlace {
	return StreamPlace{Instance: ID{1}, Epoch: Epoch{epoch}, Seq: seq}
}

func TestACursorFindsGaps(t *testing.T) {
	c := &cursor{stream: "m/1/0"}
	c.begin(ID{1}, Epoch{1}, 4)
	for _, step := range []struct {
		name      string
		got, want verdict
	}{
		{"the next", c.event(at(1, 5)), keep},
		{"a repeat", c.event(at(1, 5)), skip},
		{"a heartbeat that confirms", c.heartbeat(at(1, 5)), skip},
		{"a gap", c.event(at(1, 8)), catchUp},
		{"what fills it", c.replayed(at(1, 6)), keep},
		{"a heartbeat beyond", c.heartbeat(at(1, 9)), catchUp},
	} {
		if step.got != step.want {
			t.Errorf("%s: %v", step.name, step.got)
		}
	}
	if c.highest != 9 || c.last != 6 {
		t.Errorf("%+v", c)
	}
	c.behind = true
	if c.event(at(1, 7)) != skip {
		t.Error("a live event during a replay")
	}
	c.behind = false
	c.giveUp(8, "gone")
	if c.event(at(2, 1)) != keep || len(c.losses) != 2 {
		t.Errorf("another epoch: %+v", c)
	}
	if loss := *c.losses[0]; loss != (StreamLoss{"m/1/0", 7, 8, "gone"}) {
		t.Errorf("%+v", loss)
	}
	if loss := *c.losses[1]; loss.First != 9 || loss.Last != 0 {
		t.Errorf("%+v", loss)
	}
}
