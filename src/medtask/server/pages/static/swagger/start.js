"use strict"
// Requests from this page are those of the signed-in browser, which have to carry its token.
const token = document.querySelector('meta[name="csrf-token"]').content
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers["X-CSRF-Token"] = token
    return request
  },
})
