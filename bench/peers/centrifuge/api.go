package main

import (
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/centrifugal/centrifuge"
)

// api is Centrifugo's HTTP API as far as it publishes (centrifugal.dev/docs/server/server_api). It
// reads and writes with encoding/json, as Centrifugo does, and a batch publishes one after the other
// unless it asks for "parallel".
type api struct {
	node *centrifuge.Node
	key  string
}

type publishRequest struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

type batchRequest struct {
	Commands []struct {
		Publish *publishRequest `json:"publish"`
	} `json:"commands"`
	Parallel bool `json:"parallel"`
}

type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type publishResult struct {
	Offset uint64 `json:"offset,omitempty"`
	Epoch  string `json:"epoch,omitempty"`
}

type publishResponse struct {
	Error  *apiError      `json:"error,omitempty"`
	Result *publishResult `json:"result,omitempty"`
}

type batchReply struct {
	Error   *apiError      `json:"error,omitempty"`
	Publish *publishResult `json:"publish,omitempty"`
}

type batchResponse struct {
	Replies []batchReply `json:"replies"`
}

func (a *api) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-API-Key")), []byte(a.key)) != 1 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (a *api) publish(w http.ResponseWriter, r *http.Request) {
	var request publishRequest
	if read(w, r, &request) {
		result, err := a.do(&request)
		write(w, publishResponse{Error: err, Result: result})
	}
}

func (a *api) batch(w http.ResponseWriter, r *http.Request) {
	var request batchRequest
	if !read(w, r, &request) {
		return
	}
	replies := make([]batchReply, len(request.Commands))
	var running sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i, command := range request.Commands {
		if !request.Parallel {
			replies[i].Publish, replies[i].Error = a.do(command.Publish)
			continue
		}
		room <- struct{}{}
		running.Go(func() {
			replies[i].Publish, replies[i].Error = a.do(command.Publish)
			<-room
		})
	}
	running.Wait()
	write(w, batchResponse{Replies: replies})
}

func (a *api) do(request *publishRequest) (*publishResult, *apiError) {
	if request == nil || request.Channel == "" || len(request.Data) == 0 {
		return nil, &apiError{Code: 107, Message: "bad request"}
	}
	result, err := a.node.Publish(request.Channel, request.Data)
	if err != nil {
		return nil, &apiError{Code: 100, Message: "internal server error"}
	}
	return &publishResult{Offset: result.Offset, Epoch: result.Epoch}, nil
}

func read(w http.ResponseWriter, r *http.Request, request any) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, request)
	}
	if err != nil {
		http.Error(w, "Bad Request", http.StatusBadRequest)
	}
	return err == nil
}

// write ends the answer with a line feed and says how long it is: so bench/crowd.py sees its end.
func write(w http.ResponseWriter, response any) {
	body, err := json.Marshal(response)
	if err != nil {
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}
