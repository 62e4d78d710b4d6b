package journal

import "testing"

// A check comes before each refresh. The time is mostly that of the disk.
func BenchmarkCheck(b *testing.B) {
	j := Open(Config{Dir: b.TempDir()})
	b.Cleanup(func() { _ = j.Close() })
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
