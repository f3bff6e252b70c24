const ws = new WebSocket('ws://localhost:3003/ws?token=' + jwtToken);

ws.onmessage = (event) => {
  const msg = JSON.parse(event.data);
  switch (msg.type) {
    case 'booking:confirmed':
      showBookingConfirmation(msg.payload);
      break;
    case 'payment:success':
      showPaymentSuccess(msg.payload);
      break;
  }
};

// Join event room
ws.onopen = () => {
  ws.send(JSON.stringify({
    type: 'room:join',
    payload: { room: 'event:' + eventId }
  }));
};
