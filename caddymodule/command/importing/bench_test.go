package importing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/transfer/transfertest"
)

// BenchmarkImport is the cost of one row, without the broker's.
func BenchmarkImport(b *testing.B) {
	for _, format := range []string{"canonical", "authjs", "nango-db"} {
		b.Run(format, func(b *testing.B) {
			g := transfertest.New(format, 1)
			g.BadShare = 0
			file, err := io.ReadAll(g.Reader(b.N))
			if err != nil {
				b.Fatal(err)
			}
			o := Options{
				Path: "-", Input: bytes.NewReader(file), Results: b.TempDir() + "/refused", Convert: g.Options(), Out: io.Discard, Err: io.Discard, Application: "my-app",
				Do: func(_ context.Context, _, _ string, body, into any) error {
					text, err := json.Marshal(body)
					if err != nil {
						return err
					}
					var request struct {
						Connections []struct{} `json:"connections"`
					}
					if err := json.Unmarshal(text, &request); err != nil {
						return err
					}
					answer := []byte(`{"data":[`)
					for i := range request.Connections {
						answer = fmt.Appendf(answer, `,{"row":%d,"status_code":200,"result":"created","refresh":"none"}`, i)
					}
					answer[9] = ' '
					return json.Unmarshal(append(answer, "]}"...), into)
				},
			}
			b.ReportAllocs()
			b.ResetTimer()
			if err := Run(b.Context(), o); err != nil {
				b.Fatal(err)
			}
		})
	}
}
