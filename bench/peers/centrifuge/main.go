// Centrifugo's engine with nothing around it: the library `centrifuge`, set as Centrifugo v6 sets it
// where its configuration says nothing, plus the two methods of its HTTP API that publish.
//
//	REDIS_URL=… centrifuge-peer serve PORT memory|redis    a server; API_KEY guards its API
//	REDIS_URL=… centrifuge-peer publish                    a publisher, told by lines (publish.go)
//
// Live only, as the notifier is: no history, no recovery, no presence.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		log.Fatal(serve(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 2 && os.Args[1] == "publish" {
		if err := publishByLine(os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	log.Fatal("usage: centrifuge-peer serve PORT memory|redis, or centrifuge-peer publish")
}

func serve(port, engine string) error {
	node, err := newNode(engine)
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		// Write delay 0, at most 16 messages in a frame, replies through the queue: the library's
		// zero values, and what Centrifugo has by default; to set them needs its PRO edition
		// (centrifugal.dev/docs/pro/client_message_batching).
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, websocketConfig()))
	api := &api{node: node, key: os.Getenv("API_KEY")}
	mux.HandleFunc("POST /api/publish", api.guarded(api.publish))
	mux.HandleFunc("POST /api/batch", api.guarded(api.batch))
	return http.ListenAndServe("127.0.0.1:"+port, mux)
}

// newNode returns a node that does not run yet. The values are the defaults of Centrifugo v6, from
// its internal/configtypes/types.go; what it leaves to the library is left to the library here.
func newNode(engine string) (*centrifuge.Node, error) {
	node, err := centrifuge.New(centrifuge.Config{
		ClientChannelLimit:           128,
		ClientQueueMaxSize:           1 << 20, // bytes; then a slow client is disconnected
		ClientStaleCloseDelay:        10 * time.Second,
		ClientPresenceUpdateInterval: 27 * time.Second,
		Metrics:                      centrifuge.MetricsConfig{MetricsNamespace: "centrifugo"},
		LogLevel:                     centrifuge.LogLevelError,
		LogHandler:                   func(entry centrifuge.LogEntry) { log.Print(entry.Message, entry.Fields) },
	})
	if err != nil {
		return nil, err
	}
	switch engine {
	case "memory": // what a node has if nothing else is set
	case "redis":
		err = useRedis(node, os.Getenv("REDIS_URL"))
	default:
		err = fmt.Errorf("no such engine: %s", engine)
	}
	return node, err
}

func useRedis(node *centrifuge.Node, url string) error {
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: url})
	if err != nil {
		return err
	}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{
		Prefix: "centrifugo",
		Shards: []*centrifuge.RedisShard{shard},
	})
	if err != nil {
		return err
	}
	node.SetBroker(broker)
	return nil
}

func websocketConfig() centrifuge.WebsocketConfig {
	return centrifuge.WebsocketConfig{
		Compression:      false,
		WriteTimeout:     time.Second,
		MessageSizeLimit: 64 << 10,
		CheckOrigin:      func(*http.Request) bool { return true },
		PingPongConfig: centrifuge.PingPongConfig{
			PingInterval: 25 * time.Second,
			PongTimeout:  8 * time.Second,
		},
	}
}
