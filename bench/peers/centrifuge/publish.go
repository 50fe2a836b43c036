package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"

	"github.com/centrifugal/centrifuge"
)

// atOnce is how many publications may wait for Redis: Centrifugo's own limit for a parallel batch
// (batchRequestMaxConcurrency, 1024). The library's Redis client pipelines what waits together.
const atOnce = 1024

// publishByLine says "ready", then publishes what each line says: the channel and the data.
//
//	public:bench<TAB>{"text":"x"}
func publishByLine(in io.Reader, out io.Writer) error {
	node, err := newNode("redis")
	if err != nil {
		return err
	}
	if err := node.Run(); err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	room := make(chan struct{}, atOnce)
	for lines.Scan() {
		channel, data, found := bytes.Cut(bytes.Clone(lines.Bytes()), []byte("\t"))
		if !found {
			return fmt.Errorf("no channel and data: %q", channel)
		}
		room <- struct{}{}
		go publishOne(node, string(channel), data, room)
	}
	return lines.Err()
}

func publishOne(node *centrifuge.Node, channel string, data []byte, room <-chan struct{}) {
	if _, err := node.Publish(channel, data); err != nil {
		log.Fatal(err)
	}
	<-room
}
