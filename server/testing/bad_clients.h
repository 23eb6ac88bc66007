// Clients that behave badly. Each function does so once, on connections of its
// own, for about half a second; its CPU time is small.

#ifndef SERVER_TESTING_BAD_CLIENTS_H_
#define SERVER_TESTING_BAD_CLIENTS_H_

#include "server/testing/soak_server.h"

namespace finetune::testing {

// Gives up each call after a few milliseconds, whatever the server is doing for
// it, and drops the connection.
void GiveUp(SoakServer& server);

// Sends what is no image, or half of one. Fails the test unless the server says
// so.
void SendBadImages(SoakServer& server);

// Begins a Classify call, sends no message, and cancels.
void SendNoMessage(SoakServer& server);

// Sends as many images on a ClassifyStream as the server takes, reads no
// answer, and cancels.
void LeaveStreamUnread(SoakServer& server);

// Falls silent within HTTP/2's first words, on several connections, and breaks
// them off.
void FallSilent(SoakServer& server);

}  // namespace finetune::testing

#endif  // SERVER_TESTING_BAD_CLIENTS_H_
