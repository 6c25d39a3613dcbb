// Inserts a batch request: mongosh "$MONGODB_URI" examples/insert_request.mongosh.js
// Afterwards: db.batch_requests.findOne({_id: "hello-mongosh-1"}, {status: 1, campaign_id: 1, problems: 1})

db.getSiblingDB("reactor").batch_requests.insertOne(
  {
    _id: "hello-mongosh-1", // its identity for ever: a duplicate key means that it is there
    schema_version: 1,
    name: "Hello from mongosh",
    type: "hello",
    template: {
      name: "hello",
      channel: "email",
      stages: [
        {
          id: "hello",
          message: {
            subject: "Hello, {{ recipient.first_name }}",
            body: "Hello {{ recipient.first_name }}, is this thing on?",
          },
          reply_within: "2d",
        },
      ],
    },
    recipients: [
      { id: "yusuf", address: { email: "yusuf@example.com" }, attributes: { first_name: "يوسف" } },
    ],
  },
  { writeConcern: { w: "majority" } },
);
