// An app of Dapr's SDK for Go, with the options that it sends of itself: last-write and strong consistency. It does what
// the first argument after the address says, and prints what came of each call as a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"os"

	dapr "github.com/dapr/go-sdk/client"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

type outcome struct {
	Call   string `json:"call"`
	Code   string `json:"code"`
	Text   string `json:"text"`
	Reason string `json:"reason"`
	// What the key has after the call.
	Value string `json:"value"`
}

func main() {
	client, err := dapr.NewClientWithAddress(os.Args[1])
	if err != nil {
		panic(err)
	}
	defer client.Close()
	ctx, store, key, out := context.Background(), os.Args[2], "k", json.NewEncoder(os.Stdout)
	// The etag that the item has before somebody else writes it.
	stale := func() string {
		check(client.SaveState(ctx, store, key, []byte("first"), nil))
		item, err := client.GetState(ctx, store, key, nil)
		check(err)
		check(client.SaveState(ctx, store, key, []byte("second"), nil))
		return item.Etag
	}
	report := func(call string, err error) {
		item, failed := client.GetState(ctx, store, key, nil)
		check(failed)
		said, _ := status.FromError(err)
		line := outcome{Call: call, Code: said.Code().String(), Text: said.Message(), Value: string(item.Value)}
		for _, detail := range said.Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				line.Reason = info.GetReason()
			}
		}
		check(out.Encode(line))
	}
	report("SaveStateWithETag", client.SaveStateWithETag(ctx, store, key, []byte("late"), stale(), nil))
	report("DeleteStateWithETag", client.DeleteStateWithETag(ctx, store, key, &dapr.ETag{Value: stale()}, nil, nil))
	late := &dapr.DeleteStateItem{Key: key, Etag: &dapr.ETag{Value: stale()}}
	report("DeleteBulkStateItems", client.DeleteBulkStateItems(ctx, store, []*dapr.DeleteStateItem{late}))
	operation := &dapr.StateOperation{
		Type: dapr.StateOperationTypeDelete,
		Item: &dapr.SetStateItem{Key: key, Etag: &dapr.ETag{Value: stale()}},
	}
	report("ExecuteStateTransaction", client.ExecuteStateTransaction(ctx, store, nil, []*dapr.StateOperation{operation}))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
